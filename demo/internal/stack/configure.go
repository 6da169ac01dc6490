package stack

// Configure makes Dendrite's key and its configuration for the domain, and returns the latter's path.
func Configure(program func(string) string, dir, domain string) (string, error) {
	return configure(program, dir, domain)
}
