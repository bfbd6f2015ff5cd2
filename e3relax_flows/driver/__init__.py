"""Screens of thousands: registered, predicted by chunks, relaxed as budget and workers allow, never lost."""
