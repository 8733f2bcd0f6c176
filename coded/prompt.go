package coded

import "sheepdog"

// TryRead implements sheepdog.PromptReplica as the replica inside does. Strips are
// not read, see Read.
func (s *Server) TryRead(r *sheepdog.ReadRequest) bool {
	inner, ok := s.Replica.(sheepdog.PromptReplica)
	return ok && !r.Policy.IsStrips() && inner.TryRead(r)
}
