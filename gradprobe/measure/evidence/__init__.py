"""What is measured beside the gradients, for the diagnosis: signal, updates, initial weights, the loss' graph."""
