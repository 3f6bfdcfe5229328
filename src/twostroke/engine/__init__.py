"""The maths: forward pass, loss, back-propagation and update; and the training loop."""
