"""One optimizer step: forward, loss, backward, update, several devices."""
