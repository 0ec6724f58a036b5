"""Files for a paper: tables, numbers with their errors, captions, a document and the manifest."""
