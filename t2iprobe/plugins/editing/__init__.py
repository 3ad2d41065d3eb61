"""Edits text in pictures through the layers that write it, and compares ways to do so."""
