//go:build fewpartitions

package sheepdog

// partitionBits is small for simulations: half of a node's work in a cluster of
// few disks is to go through its tables, and a simulation plays more failures in
// that time. Nodes of such a build understand no others; only tests use it.
const partitionBits = 10
