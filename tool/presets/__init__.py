"""The pipeline's presets (seam, eps, quickstart, laptop, smoke) and what runs them."""
