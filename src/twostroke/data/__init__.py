"""Samples and labels: the bundled MNIST, your own files, pictures of digits."""
