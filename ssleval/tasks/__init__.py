"""Tasks, one module each: its name is the task's, its docstring the protocol."""
