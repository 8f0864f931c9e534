"""Real-time style transfer (Johnson, Alahi & Fei-Fei 2016): a network learns to paint in one style, in one pass."""
