"""Exported models: the card that says where they come from, and its check offline."""
