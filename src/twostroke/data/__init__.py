"""Samples and labels: the bundled MNIST, people's own files, pictures of digits."""
