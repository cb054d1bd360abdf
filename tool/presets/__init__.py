"""The pipeline's presets (seam, eps, coco, quickstart, laptop, smoke) and what runs them."""
