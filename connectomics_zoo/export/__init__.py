"""Networks and labels in the formats of other programs; nothing is imported here, so that their index is light."""
