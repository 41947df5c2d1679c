{{- define "gridcloud.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains "gridcloud" $name) }}{{ $name = printf "%s-gridcloud" $name }}{{ end -}}
{{- $name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "gridcloud.selector" -}}
app.kubernetes.io/name: gridcloud
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gridcloud.labels" -}}
{{ include "gridcloud.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "gridcloud.sessions" -}}
{{- .Values.sessions.namespace | default .Release.Namespace -}}
{{- end }}

{{- define "gridcloud.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "gridcloud.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{- define "gridcloud.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Session pods, whichever gridcloud has made them. */}}
{{- define "gridcloud.sessionSelector" -}}
matchExpressions:
  - {key: gridcloud.io/installation, operator: Exists}
{{- end }}

{{/* Tolerations of a pool: those it names, else of a pool with GPUs the taint that such nodes have. */}}
{{- define "gridcloud.tolerations" -}}
{{- if .tolerations -}}
{{- toYaml .tolerations -}}
{{- else if .gpu -}}
{{- toYaml (list (dict "key" (.gpu.resource | default "nvidia.com/gpu") "operator" "Exists" "effect" "NoSchedule")) -}}
{{- end -}}
{{- end }}

{{/* The provider of a pool, from (dict "root" . "pool" …). */}}
{{- define "gridcloud.provider" -}}
{{- $sessions := .root.Values.sessions -}}
{{- $pool := .pool -}}
driver: kubernetes
kubeconfig: in-cluster
namespace: {{ include "gridcloud.sessions" .root }}
image: {{ $pool.image | default $sessions.image | quote }}
pull: {{ $sessions.pull }}
run_as_user: {{ $sessions.runAsUser }}
{{- with $sessions.images }}
images: {{ toJson . }}
{{- end }}
{{- with $sessions.pullSecrets }}
image_pull_secrets: {{ toJson . }}
{{- end }}
{{- with $pool.cpus | default $sessions.limit.cpus }}
cpus: {{ . }}
{{- end }}
{{- with $pool.memory | default $sessions.limit.memory }}
memory: {{ . }}
{{- end }}
{{- with $sessions.home.size }}
home_size: {{ . }}
home_access: {{ $sessions.home.access }}
{{- with $sessions.home.storageClass }}
storage_class: {{ . }}
{{- end }}
{{- end }}
{{- with $pool.nodeSelector }}
node_selector: {{ toJson . }}
{{- end }}
{{- with include "gridcloud.tolerations" $pool }}
tolerations:
  {{- . | nindent 2 }}
{{- end }}
{{- with $pool.gpu }}
{{- with .resource }}
gpu_resource: {{ . }}
{{- end }}
{{- with .modelLabel }}
gpu_model: {{ . }}
{{- end }}
{{- with .memoryLabel }}
gpu_memory: {{ . }}
{{- end }}
{{- end }}
{{- with $pool.queue }}
queue: {{ . }}
{{- end }}
{{- with $pool.longest }}
longest: {{ . }}
{{- end }}
{{- with $pool.location }}
location: {{ . | quote }}
{{- end }}
{{- with $pool.priorityClass }}
priority_class: {{ . }}
{{- end }}
{{- with $pool.runtimeClass }}
runtime_class: {{ . }}
{{- end }}
{{- range $from, $to := dict "price" "price" "priceCpu" "price_cpu" "priceMemory" "price_memory" "priceGpu" "price_gpu" }}
{{- if hasKey $pool $from }}
{{ $to }}: {{ get $pool $from }}
{{- end }}
{{- end }}
{{- end }}

{{/* gridcloud's configuration: what values say in the chart's words, below what `config` says in gridcloud's. */}}
{{- define "gridcloud.config" -}}
{{- $given := deepCopy .Values.config -}}
{{- $providers := dict -}}
{{- range $name, $pool := .Values.sessions.pools -}}
{{- if hasKey ($given.providers | default dict) $name -}}
{{- fail (printf "config.providers.%s: sessions.pools has a pool of this name; call one of them otherwise" $name) -}}
{{- end -}}
{{- $_ := set $providers $name (include "gridcloud.provider" (dict "root" $ "pool" ($pool | default dict)) | fromYaml) -}}
{{- end -}}
{{- $hub := dict "base_url" .Values.hub.baseUrl -}}
{{- if .Values.ingress.enabled -}}
{{- $_ := set $hub "public_url" (printf "%s://%s%s" (ternary "https" "http" (ne .Values.ingress.tlsSecret "")) .Values.ingress.host .Values.hub.baseUrl) -}}
{{- end -}}
{{- $defaults := dict "cpus" .Values.sessions.guarantee.cpus "memory" .Values.sessions.guarantee.memory -}}
{{- toYaml (mergeOverwrite (dict "providers" $providers "hub" $hub "defaults" $defaults) $given) -}}
{{- end }}

{{/* What no schema can tell, said before anything is made. */}}
{{- define "gridcloud.check" -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository: say which image the hub has; docs/guide/helm.md tells how to make one" -}}
{{- end -}}
{{- if not .Values.sessions.image -}}
{{- fail "sessions.image: say which image sessions have" -}}
{{- end -}}
{{- range $key, $instead := dict "bind" "nothing: it is every address of the pod" "port" "service.port" "base_url" "hub.baseUrl" -}}
{{- if hasKey (dig "hub" dict $.Values.config) $key -}}
{{- fail (printf "config.hub.%s: this is the chart's to say; use %s" $key $instead) -}}
{{- end -}}
{{- end -}}
{{- range $name, $profile := dig "profiles" dict .Values.config -}}
{{- if hasKey (dig "request" dict $profile) "true" -}}
{{- fail (printf "config.profiles.%s.request: Helm reads the key on as true; write \"on\"" $name) -}}
{{- end -}}
{{- end -}}
{{- if hasKey (dig "store" dict .Values.config) "url" -}}
{{- fail "config.store.url: it may hold a password, and a ConfigMap is no secret; use storage.postgresql.secret" -}}
{{- end -}}
{{- range $name, $provider := dig "providers" dict .Values.config -}}
{{- if eq $provider.driver "local" -}}
{{- fail (printf "config.providers.%s.driver: local would run sessions in the hub's own pod, beside its keys" $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.sessions.createNamespace (eq (include "gridcloud.sessions" .) .Release.Namespace) -}}
{{- fail "sessions.createNamespace: the sessions' namespace is the release's own; name another as sessions.namespace" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not (dig "hub" "authenticator" "" .Values.config)) -}}
{{- fail "config.hub.authenticator: with an Ingress, say how people log in; without it, there is one link for one person" -}}
{{- end -}}
{{- if not (or .Values.sessions.pools .Values.config.providers) -}}
{{- fail "sessions.pools: there is no pool, and config.providers is empty: sessions could run nowhere" -}}
{{- end -}}
{{- range $name, $pool := .Values.sessions.pools -}}
{{- if and ($pool | default dict).placeholders (dig "placeholders" "gpus" 0 $pool) (not $pool.gpu) -}}
{{- fail (printf "sessions.pools.%s.placeholders.gpus: this pool has no GPUs; say which by sessions.pools.%s.gpu" $name $name) -}}
{{- end -}}
{{- end -}}
{{- end }}
