//! HTTP: the Docker Engine API and Coracle's own.
