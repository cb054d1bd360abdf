"""The pipeline's presets and what runs them: reading a preset, starting its scripts, the ladder of
its scores."""
