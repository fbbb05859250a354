"""What people look at: the report of results, pictures of what a model sees."""
