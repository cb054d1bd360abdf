"""The page of tool.report: what it shows, its charts, and its HTML.

`run_files` reads the work folder of a pipeline, `mask_stages` finds the masks of its stages and
`gallery` makes pictures of them; `charts` computes lines and bars, and `page` fills the template.
"""
