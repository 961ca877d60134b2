"""The figures of the notebooks: nothing here trains, decides or is kept."""
