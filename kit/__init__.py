"""The thin library behind the lessons: each module is one idea, and nothing is imported until it is
used."""
