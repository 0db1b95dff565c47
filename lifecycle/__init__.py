"""Jobs over the data: apply, and later backfill, rotation, retention, destruction, backup."""
