"""Attribution maps of trained networks by Captum, what they are worth, and how they are shown."""
