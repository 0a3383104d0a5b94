"""Files for other programs: a traced step as a picture and for PyTorch's memory viewer."""
