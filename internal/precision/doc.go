// Package precision finds out what few bits do to a model, and which bits do least:
// it judges models by how far their predictions are from the exact one's, learns from
// a text which columns of a matrix matter, measures what rounding each part of a model
// does by itself, and deals bits out to the parts within a budget of bytes.
//
// All of it needs the whole model in float32 on one device, and is done once, before a
// model is served.
package precision
