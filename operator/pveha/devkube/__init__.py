"""A real Kubernetes API server on loopback, without containers: for the demo and the cluster tests.

`binaries` finds kube-apiserver, etcd and kubectl, or gets them: from the published archive (`archive`) or by
compiling the module in `wrapper/` (`build`), once per machine, kept in the user's cache folder (`cache`).
`controlplane` runs one etcd and one API server that end with this process however it ends (`process`), with
certificates and tokens made for that run (`pki`), and can cut and restore the API server. `access` is kubectl
and kubeconfigs, `target` the same handful of verbs for a control plane of ours, the user's own kind, or any
kubeconfig context.

Only the command line, tests and benchmarks import this package.
"""
