//! Units on machines: what should run, what runs, and the steps between.
