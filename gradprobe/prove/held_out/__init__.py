"""What is measured on held-out data: accuracy, Dice, mean IoU, the loss, or a metric of the user's own."""
