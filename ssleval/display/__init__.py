"""What people look at: the report of results, what is published, pictures of what a model sees."""
