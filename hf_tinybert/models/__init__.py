"""Loading models, and finding the parts of them that the losses look at."""
