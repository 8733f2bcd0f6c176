// Package peer is the data plane between nodes: binary frames over a few TCP
// connections per pair of nodes, all through one listening port.
//
// A Mux sorts the connections of the port by their first bytes: peer frames,
// Raft streams, gossip streams, and HTTP. A Pool holds a Client per remote
// node; a Client is a sheepdog.Replica and a sheepdog.Forwarder whose work is
// done by the Handler behind the Server at the far end. Codecs are pure
// functions; their byte layouts are drawn where they are encoded.
//
// A client keeps two connections to a node: one for what is small and wants low
// latency, one for bulk (64 KiB and more, lists, control). Requests have ids
// and are answered in any order. Whoever has something to send writes it to the
// socket itself if nobody else is writing; only what the socket does not take
// at once goes to the connection's writer goroutine. The server hands all
// writes that it finds in its buffer to the handler as one batch, on the
// goroutine that reads, and runs everything else in bounded goroutines.
//
// Both ends send heartbeats and count silence in heartbeat periods, not by
// comparing clocks, so that a process that was itself stopped does not blame
// its peers. A connection that broke ends all its calls with
// sheepdog.ErrUnreachable: the outcome of what was sent on it is unknown.
//
// The package knows nothing of views, tokens or placement, retries nothing
// and decides nothing about membership: Options.OnBroken reports what it saw.
package peer
