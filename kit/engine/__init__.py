"""The machinery behind the lessons: read it to learn how a promise is kept."""
