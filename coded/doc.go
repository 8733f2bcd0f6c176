// Package coded keeps erasure coded layers: frozen layers whose objects are
// stored as D data and P parity strips, one to a node, of which any D give the
// object back (docs/adr/0008). A coded layer never changes once it is complete,
// so there are no partial updates, no stamps and no fences here: a strip is
// right wherever it is found, and its blocks' checksums say whether it is whole.
//
// It does not write guests' data (package vdi does, to replicated layers) and
// does not decide what is coded when (vdi again).
//
// Main types: Codec is the code; layout says where the blocks of an object are
// in its strips; Server answers for the strips of this node; Client encodes
// objects and reads them; Keeper sees to it that every strip is where it should
// be.
package coded
