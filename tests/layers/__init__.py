"""What is read out of the layers of images, beside what umoci makes of them, and from layers that were damaged."""
