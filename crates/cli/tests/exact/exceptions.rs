//! Where answers differ from the definition, and why.

/// A property, by the name of its schema or by the endpoint that answers it.
pub struct Exception {
    pub place: &'static str,
    /// Versions of the API; none are all.
    pub versions: &'static [&'static str],
    pub reason: &'static str,
    /// Whether it depends on the speed of things if it is seen.
    pub sometimes: bool,
}

const fn always(place: &'static str, reason: &'static str) -> Exception {
    only(&[], place, reason)
}

const fn sometimes(place: &'static str, reason: &'static str) -> Exception {
    Exception {
        place,
        versions: &[],
        reason,
        sometimes: true,
    }
}

const fn only(
    versions: &'static [&'static str],
    place: &'static str,
    reason: &'static str,
) -> Exception {
    Exception {
        place,
        versions,
        reason,
        sometimes: false,
    }
}

const OLD: &str = "docker sends it too, for clients of older versions";
const PUSHED: &str = "docker sends it too, and its command shows it";
const NEWER: &str = "what was asked with a newer version is shown as it was asked";

/// Properties that the definition does not know.
pub const MORE: &[Exception] = &[
    always("EventMessage.from", OLD),
    always("EventMessage.id", OLD),
    always("EventMessage.status", OLD),
    always("PushImageInfo.aux", PUSHED),
    always("PushImageInfo.id", PUSHED),
    only(&["1.44", "1.47"], "PushImageInfo.errorDetail", PUSHED),
    only(&["1.44"], "Mount.VolumeOptions.Subpath", NEWER),
    only(&["1.44"], "Mount.TmpfsOptions.Options", NEWER),
];

const AS_DOCKER: &str = "docker sends null where nothing was asked for";

/// Places where null stands though the definition does not say so.
pub const NULLS: &[Exception] = &[
    always("ContainerConfig.Entrypoint", AS_DOCKER),
    always("EndpointSettings.Aliases", AS_DOCKER),
    always("EndpointSettings.Links", AS_DOCKER),
    always(
        "GET /exec/{id}/json.ExitCode",
        "docker sends null until the process has ended",
    ),
    always("HostConfig.MemorySwappiness", AS_DOCKER),
    always("IPAM.Options", AS_DOCKER),
    only(&["1.44", "1.47"], "ImageConfig.Entrypoint", AS_DOCKER),
    only(&["1.44", "1.47"], "ImageConfig.Env", AS_DOCKER),
    only(&["1.44", "1.47"], "ImageConfig.Labels", AS_DOCKER),
    only(&["1.44", "1.47"], "ImageConfig.Volumes", AS_DOCKER),
    only(&["1.44"], "ContainerConfig.Env", AS_DOCKER),
    only(&["1.44"], "ContainerConfig.Cmd", AS_DOCKER),
    only(&["1.44"], "ContainerConfig.Volumes", AS_DOCKER),
    only(&["1.44"], "ContainerConfig.Labels", AS_DOCKER),
    always(
        "ImageHistoryResponseItem.Tags",
        "docker sends null for the lines of layers without a name",
    ),
    always("PluginsInfo.Authorization", AS_DOCKER),
    always("Volume.Options", AS_DOCKER),
    always("VolumeListResponse.Warnings", AS_DOCKER),
];

const WINDOWS: &str = "of Windows";
const SWARM: &str = "of swarms";
const REFUSED: &str = "it cannot be asked for";
const CONTAINERD: &str =
    "of docker's image store in containerd; docker leaves it out with overlay2";
const LEFT_OUT: &str = "docker leaves it out where there is nothing to say";
const DRAWN: &str = "deprecated: clients draw it from progressDetail";
const SLOW: &str = "of transfers that take their time";

/// Properties that no answer of the scenario has.
pub const UNSENT: &[Exception] = &[
    always("BuildInfo.id", "builds tell of pulls in stream"),
    always("BuildInfo.progress", DRAWN),
    always("BuildInfo.progressDetail", "builds tell of pulls in stream"),
    always("BuildInfo.status", "builds tell of pulls in stream"),
    only(
        &["1.51"],
        "ContainerCPUUsage.percpu_usage",
        "docker leaves it out on machines with cgroup v2 alone; clients add nothing by it",
    ),
    always("ContainerConfig.ArgsEscaped", WINDOWS),
    only(
        &["1.51"],
        "ContainerInspectResponse.ImageManifestDescriptor",
        CONTAINERD,
    ),
    only(&["1.51"], "ContainerMemoryStats.commitbytes", WINDOWS),
    only(&["1.51"], "ContainerMemoryStats.commitpeakbytes", WINDOWS),
    only(&["1.51"], "ContainerMemoryStats.privateworkingset", WINDOWS),
    only(&["1.51"], "ContainerNetworkStats.endpoint_id", WINDOWS),
    only(&["1.51"], "ContainerNetworkStats.instance_id", WINDOWS),
    only(
        &["1.51"],
        "ContainerStorageStats.read_count_normalized",
        WINDOWS,
    ),
    only(&["1.51"], "ContainerStorageStats.read_size_bytes", WINDOWS),
    only(
        &["1.51"],
        "ContainerStorageStats.write_count_normalized",
        WINDOWS,
    ),
    only(&["1.51"], "ContainerStorageStats.write_size_bytes", WINDOWS),
    only(
        &["1.51"],
        "ContainerSummary.ImageManifestDescriptor",
        CONTAINERD,
    ),
    always("ContainerWaitResponse.Error", "of waits that fail"),
    always("CreateImageInfo.error", "of pulls that break off midway"),
    always(
        "CreateImageInfo.errorDetail",
        "of pulls that break off midway",
    ),
    always("CreateImageInfo.progress", DRAWN),
    always("EndpointIPAMConfig.LinkLocalIPs", LEFT_OUT),
    always("HostConfig.KernelMemoryTCP", REFUSED),
    always("HostConfig.StorageOpt", REFUSED),
    always("IPAMConfig.AuxiliaryAddresses", LEFT_OUT),
    always("ImageConfig.ArgsEscaped", WINDOWS),
    only(&["1.44", "1.47"], "ImageConfig.MacAddress", LEFT_OUT),
    only(&["1.44", "1.47"], "ImageConfig.NetworkDisabled", LEFT_OUT),
    only(&["1.44", "1.47"], "ImageConfig.StopTimeout", LEFT_OUT),
    only(&["1.51"], "ImageInspect.Descriptor", CONTAINERD),
    only(&["1.51"], "ImageInspect.Manifests", CONTAINERD),
    always("ImageInspect.OsVersion", WINDOWS),
    only(&["1.51"], "ImageSummary.Descriptor", CONTAINERD),
    only(&["1.47", "1.51"], "ImageSummary.Manifests", CONTAINERD),
    only(&["1.51"], "Mount.ImageOptions", REFUSED),
    always("Network.Peers", SWARM),
    only(&["1.51"], "OCIDescriptor.annotations", LEFT_OUT),
    only(&["1.51"], "OCIDescriptor.artifactType", LEFT_OUT),
    only(&["1.51"], "OCIDescriptor.data", LEFT_OUT),
    only(&["1.51"], "OCIDescriptor.platform", LEFT_OUT),
    only(&["1.51"], "OCIDescriptor.urls", LEFT_OUT),
    always("OCIPlatform.os.features", WINDOWS),
    always("OCIPlatform.os.version", WINDOWS),
    sometimes("OCIPlatform.variant", "of ARM"),
    sometimes("ProgressDetail.current", SLOW),
    sometimes("ProgressDetail.total", SLOW),
    always("PushImageInfo.progress", DRAWN),
    always("Runtime.runtimeArgs", LEFT_OUT),
    always(
        "Runtime.status",
        "of runtimes that are programs of their own",
    ),
    always("SwarmInfo.Cluster", SWARM),
    always("SwarmInfo.Managers", SWARM),
    always("SwarmInfo.Nodes", SWARM),
    only(
        &["1.47", "1.51"],
        "SystemInfo.Containerd",
        "there is no containerd",
    ),
    only(&["1.51"], "SystemInfo.DiscoveredDevices", LEFT_OUT),
    always("SystemInfo.ProductLicense", "of docker's own product"),
    always("SystemVersion.Experimental", LEFT_OUT),
    always("Volume.ClusterVolume", SWARM),
    always("Volume.Status", LEFT_OUT),
];
