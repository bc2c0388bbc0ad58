"""How far scores can be trusted: fine-tuned performance, rank correlation with it, and tests over many targets."""
