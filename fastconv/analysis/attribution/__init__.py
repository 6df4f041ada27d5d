"""Attribution maps of trained networks by Captum: computation, measures and reports."""
