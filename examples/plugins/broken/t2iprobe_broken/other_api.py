"""Made for another version of the plugin API; its entry point is in the group of that version."""
