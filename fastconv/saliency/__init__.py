"""Where a trained network looks: attribution maps by Captum, what they are worth, and how they are shown."""
