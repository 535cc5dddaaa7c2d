"""From what a caller asks to the tokens, images and videos of a prompt."""
