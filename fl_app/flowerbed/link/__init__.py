"""The links between server and devices. Each is a Flower `Grid`; `fl_link` chooses, and nothing else knows which."""
