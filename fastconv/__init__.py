"""fastconv: how good an image classifier can you have in 1000 seconds, on the machine you have?"""

__version__ = "0.1.0"
