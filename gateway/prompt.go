package gateway

import "sheepdog"

// TryRead is Read if this node's own replica acts and has the bytes at hand; else
// it returns false, and the request's buffers hold anything.
func (g *Gateway) TryRead(req *sheepdog.ReadRequest) bool {
	v := g.views.View()
	if v == nil {
		return false
	}
	to := g.route(v, req.Policy, req.Object.Partition())
	if to == nil || to.readers[0].ID != g.self {
		return false
	}
	own, ok := g.peers.Replica(to.readers[0]).(sheepdog.PromptReplica)
	if !ok {
		return false
	}
	req.Revision = v.Revision
	return own.TryRead(req)
}
