package stack

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// StartHomeserver starts Dendrite on SQLite, for the domain, on a port of the loopback interface.
func StartHomeserver(program func(string) string, log io.Writer, domain, port string) (*Process, error) {
	dir, err := os.MkdirTemp("", "wellknown-homeserver-*")
	if err != nil {
		return nil, err
	}
	config, err := configure(program, dir, domain)
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return start(dir, log, nil, program("dendrite"), "-config", config,
		"-http-bind-address", "127.0.0.1:"+port)
}

func configure(program func(string) string, dir, domain string) (string, error) {
	if output, err := exec.Command(program("generate-keys"), "--private-key", filepath.Join(dir, "matrix_key.pem")).CombinedOutput(); err != nil {
		return "", fmt.Errorf("generate-keys: %w: %s", err, output)
	}
	config := filepath.Join(dir, "dendrite.yaml")
	content, err := exec.Command(program("generate-config"), "-dir", dir, "-server", domain).Output()
	if err != nil {
		return "", fmt.Errorf("generate-config: %w", err)
	}
	return config, os.WriteFile(config, content, 0o600)
}
