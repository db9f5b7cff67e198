"""How well label maps agree with manual ones: metrics, groups, intervals, comparison of two methods."""
