"""The figures and widgets of the notebooks: nothing here trains, decides or is kept."""
