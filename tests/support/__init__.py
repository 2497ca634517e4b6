"""What several tests share: networks, loops, an independent record of gradients, scripts."""
