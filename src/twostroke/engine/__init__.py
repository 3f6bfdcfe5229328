"""The maths: forward pass, loss, back-propagation, update, and the training loop around them."""
