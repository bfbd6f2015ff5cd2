"""Tables and HTML pages written from documents."""
