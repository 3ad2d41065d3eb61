"""Pages of the viewer and what their scripts fetch, one file for each part."""
