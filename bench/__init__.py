"""The benchmarks: ``pytest bench --benchmark-only`` for tables, ``python bench/duel.py`` for every claimed ratio."""
