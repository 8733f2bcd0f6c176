// Package prefetch has the processor fetch memory that will be needed soon, while it
// does something else.
//
// Main function: Line.
package prefetch
